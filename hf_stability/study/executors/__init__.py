"""Where jobs run: in this process, or in worker processes. All give the same bits."""
