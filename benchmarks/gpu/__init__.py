"""The engine on a GPU: time, memory and waits of a logical step against ordinary training."""
