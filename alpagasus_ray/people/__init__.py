"""People's votes and ratings: the ballot they are asked with, what comes back, and other tools' forms of both."""
