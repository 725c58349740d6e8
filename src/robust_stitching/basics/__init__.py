"""What everything stands on: errors, files, locks, labels, progress, seeds."""
