"""Jobs: the seam (`backend`) and what keeps them (`memory`)."""
