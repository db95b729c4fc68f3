"""Walk-forward: what other settings would have learned from the archive; judged first, then learned from.

``settings`` says which keys may differ, ``parts`` cuts the history, ``walk`` learns and judges, ``pool`` does
that in several processes, ``results`` adds up, ``side_by_side`` compares, ``search`` looks for better ones in
``space``, ``plot`` draws.
"""
