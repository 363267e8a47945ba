//! Every number of the oracle tables, derived again, and the production samplers driven by the oracles.

mod drive;
mod numbers;
mod power;
