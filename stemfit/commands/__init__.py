"""Commands beside `analyze`, and what all commands share; `cli` mounts them.

Each module is as light as the help text: what is heavy is imported inside the command.
"""
