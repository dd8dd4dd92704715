"""One file per command. `torchrun_cli.app` imports each of them only when it runs."""
