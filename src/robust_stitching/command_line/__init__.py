"""The commands: parsing, plans, what is told. The library below never knows of them."""
