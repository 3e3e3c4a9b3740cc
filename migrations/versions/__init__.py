"""One file per migration; none is edited once it is merged."""
