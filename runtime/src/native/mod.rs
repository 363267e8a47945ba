//! The native CPU executor: own kernels, own thread pool, weights read where they lie in the map.
#![allow(unsafe_code)]

pub mod kernels;
