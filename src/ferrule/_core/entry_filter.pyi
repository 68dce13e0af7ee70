SYNTAXES: tuple[str, ...]

class EntryFilter:
    tree: object
    def __init__(self, tree: object) -> None: ...
