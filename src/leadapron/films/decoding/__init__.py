"""Films in files, decoded in isolated worker processes because a film may be hostile."""

from leadapron.films.decoding.films import FilmFiles, hashed
from leadapron.films.decoding.isolation import ask, give_up, processors, read_headers

__all__ = ["FilmFiles", "ask", "give_up", "hashed", "processors", "read_headers"]
