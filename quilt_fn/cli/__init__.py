"""The `quilt` command. `main` is the entry; it imports a command's own file only when that command is run.

`lazy` is the group that makes that possible, `output` how things are shown (tables, JSON, progress, errors).
`platform` holds the commands that run another program of ours (up, down, status, doctor, service, bench); `deploy`,
`invoke`, `functions`, `pool`, `logs` and `keys` speak to a platform through `quilt_fn.client`; `user_app` loads a
user's file. `reference` writes docs/reference/cli.md from the commands themselves.
"""
