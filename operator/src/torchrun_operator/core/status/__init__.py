"""Status: from findings and plan to the status that is written. One file per condition. Pure."""
