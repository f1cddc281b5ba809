"""What a report says in numbers: data frames made from the results of a study."""
