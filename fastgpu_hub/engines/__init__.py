"""Engines start and watch what runs in a lease. ``local`` runs jobs as processes, ``fake`` only pretends to."""
