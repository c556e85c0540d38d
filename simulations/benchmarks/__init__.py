"""What fedkd costs in time, measured side by side; a file for each thing that is measured."""
