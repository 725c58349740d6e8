"""What a run leaves behind: numbers for programs, a table for the terminal, pages for people."""
