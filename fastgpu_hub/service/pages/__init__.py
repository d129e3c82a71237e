"""Server-rendered pages for everyone: they need no JavaScript and show what the API answers."""
