//! The pure core, driven event by event; what always holds is checked after each.

#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

mod env; // a state, its store and the time
mod agents; // its workers come and go
mod words; // specs, names, reports, orders
mod path; // submit to succeeded
mod failures; // what ends attempts, and what follows
mod stalls; // gangs that do not progress
mod workers; // leases, reconnects, restarts of agents
mod restart; // the coordinator comes back from its store
mod saves; // parts, manifests, verification, fall-back
mod best; // the best checkpoint as a phase's result
mod recovery; // survivors, their state, and what they lack
mod planned; // growth, scaling, draining, preemption
mod measured; // what is counted of all that
mod traced; // what a collector of traces is told of it
mod devices; // some cannot be used
mod wishes; // submit twice, cancel, retry, delete, pin, explain
mod storm; // a whole cluster, in bad weather
mod random; // random events never break a promise
