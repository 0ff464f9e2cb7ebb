"""What do the numbers look like? One function a figure: numbers come in, Axes or Figure goes out.
Where one takes `ax`, it draws there, else on a new figure.
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
