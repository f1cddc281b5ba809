"""Numbers of a report: data frames computed from the results of a study."""
