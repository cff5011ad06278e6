"""Films in files, decoded in processes of their own, since a film from outside may be hostile."""

from leadapron.films.decoding.films import FilmFiles, hashed
from leadapron.films.decoding.isolation import ask, give_up, processors, read_headers

__all__ = ["FilmFiles", "ask", "give_up", "hashed", "processors", "read_headers"]
