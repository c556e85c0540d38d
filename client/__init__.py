"""An institution's side: it answers. Only `vault` opens data, only `release` lets anything out."""
