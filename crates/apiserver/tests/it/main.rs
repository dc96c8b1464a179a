//! The pipeline over an in-memory store, through in-process clients.

mod support;

mod basics;
