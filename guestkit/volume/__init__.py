"""Partition tables and volume managers: [Source] -> [Volume]."""
