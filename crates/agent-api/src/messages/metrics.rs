//! What is measured inside the boundary, as [Prometheus](https://prometheus.io/docs/concepts/data_model/) has it. What is made of them: [`crate::metrics`].

use prost::{Enumeration, Message};

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GetMetricsRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct GetMetricsResponse {
    #[prost(message, repeated, tag = "1")]
    pub metrics: Vec<Metric>,
}

/// A family: one name, a sample for each set of labels.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// With its unit: `nacre_container_memory_bytes`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// One sentence.
    #[prost(string, tag = "2")]
    pub help: String,
    #[prost(enumeration = "MetricKind", tag = "3")]
    pub kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum MetricKind {
    /// Goes up and down.
    Gauge = 0,
    /// Only goes up; its name ends in `_total`.
    Counter = 1,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(double, tag = "2")]
    pub value: f64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}
