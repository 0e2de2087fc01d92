//! `data.db`.

pub mod bind;
pub mod schema_sql;
pub mod sqlerror;
