"""What is made of the chart, its values and the settings: `make chart`."""
