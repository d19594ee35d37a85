"""The panel's helpers that need the application: logic, display, views, jobs. They lie beside CycleINR.py."""
