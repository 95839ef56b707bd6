"""The commands: their arguments, and how they begin and end. Every other package is below this one."""
