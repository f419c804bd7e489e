//! Virtual time.
mod agenda;
mod cluster;
mod draw;
mod pool;
mod post;
mod read;
mod slab;
