//! Jobs, cron jobs and disruption budgets.
