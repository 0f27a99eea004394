//! What stacks leave to devices, end to end: super-frames and unfinished checksums through every
//! pair of ports and every overlay, with offloads on, off, and on one side only.

#![forbid(unsafe_code)]

mod guest;
mod kernel_cuts;
mod matrix;
mod net;
mod oracle;
mod settings;
