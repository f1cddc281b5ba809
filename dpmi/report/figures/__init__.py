"""What a report draws, and the plots of the command line; each module makes one figure."""
