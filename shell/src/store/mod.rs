//! `data.db`.

pub mod backup;
pub mod bind;
pub mod classify;
pub mod policy;
pub mod read;
pub mod schema_sql;
pub mod sqlerror;
