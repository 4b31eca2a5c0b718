//! The Elasticsearch exporter: documents built from wire bytes ([`document`]), each with a result of its own.

pub mod document;
