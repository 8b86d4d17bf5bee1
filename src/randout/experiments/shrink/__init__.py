"""A ladder of student sizes against one teacher: the cheapest form of a model that is not worse."""
