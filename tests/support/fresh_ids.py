"""Imported before Ray's libraries in a process that others are forked from: keeps Ray's generator of ids from beginning there.

All copies would draw the same ids, and two at once the same name for an object in their store. Each class of actors draws one.
"""

import os
from types import SimpleNamespace

from ray import actor

_class_id = actor.ActorClassID
actor.ActorClassID = SimpleNamespace(from_random=lambda: _class_id(os.urandom(_class_id.size())))
