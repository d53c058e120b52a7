"""How fast this project is beside what a user would pick instead: `make bench`."""
