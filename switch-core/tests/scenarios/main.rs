//! Scenarios of the whole core on a virtual clock: what goes in at the far end of some port, what
//! comes out of the others, and what is counted.
//!
//! Every scenario is listed in [`SCENARIOS`] and is a test of its own; together they have to cause
//! every drop reason.

mod buffers;
mod fdb;
mod flooding;
mod harm;
mod hostile;
#[path = "../lab/mod.rs"]
mod lab;
mod limits;
mod loops;
mod mirror;
mod model;
mod offload;
mod overlay;
mod reasons;
mod rehearsal;
mod samples;
mod vlan;

/// Makes a test of each scenario, and the list of all.
macro_rules! scenarios {
    ($($module:ident: $($name:ident),+;)*) => {
        const SCENARIOS: &[(&str, fn())] = &[
            $($((concat!(stringify!($module), "::", stringify!($name)), $module::$name),)+)*
        ];

        mod scenario {
            $(mod $module {
                $(#[test] fn $name() { crate::$module::$name(); })+
            })*
        }
    };
}

scenarios! {
    buffers: copies_that_fail, no_room_for_a_tag, a_full_queue, handover, a_full_hand_over_ring, bursts, poisoned_buffers, flapping_ports;
    fdb: learns_and_forwards, learns_within_a_burst, ages_out, each_bridge_ages_by_its_own_time, only_the_source_refreshes, moves, static_entries_stay, sticky_entries_age_but_do_not_move, flushes, closing_a_port_forgets_its_addresses, without_learning_everything_floods, learning_is_independent;
    flooding: frames_wait_for_the_snapshot, members_only, the_original_goes_to_the_last_port, many_members, reserved_addresses, bad_sources, no_hairpin, isolated_ports, ports_that_are_down_get_nothing, alone_in_a_bridge_or_in_none, storm_limit;
    harm: damaged_wires, harmless_wires, replayed_captures;
    hostile: runts, giants, short_tags, truncated_everything, noise, strays_wait_for_others;
    limits: a_port_learns_no_more_than_its_limit, a_flooded_port_does_not_push_out_the_others, one_bridge_does_not_fill_the_table_of_another, memory_is_bounded;
    loops: the_guard_ends_a_loop, a_block_ends, blocked_destinations, few_moves_are_no_loop, a_port_without_guard_is_not_blocked;
    mirror: directions, whole_bridges, tags_vlans_and_filters, samples_and_snaps, super_frames_are_cut_where_they_must_be, copies_through_a_tunnel, copies_in_erspan, what_is_mirrored_is_unharmed, copies_that_cannot_be_made, random_traffic_is_copied_and_unchanged;
    model: random_switches_do_as_the_model, random_bursts_stay_apart;
    offload: a_device_that_refuses, the_mtu_is_kept, unfinished_checksums, super_frames, super_frames_and_tags, super_frames_and_the_mtu, no_buffers_for_segments, lying_metadata;
    overlay: a_network_of_four_hosts, packets_that_are_refused, options_checksums_and_numbers, split_horizon, a_route_into_the_overlay, congestion_that_cannot_be_marked, frames_that_do_not_fit_the_path, vlans_and_tunnels, a_tunnel_goes, an_address_in_two_places, addresses_that_no_remote_takes, checksums_that_nobody_finished, a_packet_that_stands_for_several;
    rehearsal: what_is_foretold_happens;
    samples: one_in_so_many_of_what_is_asked_for, each_sample_is_a_record;
    vlan: access_ports, trunk_and_access, native_vlan, trunk_to_trunk_keeps_priority, priority_tags, transparent_ports_pass_every_tag, service_tags_are_payload, reserved_vid_is_dropped, stacked_tags, no_vlan_is_reached_by_two_tags, a_port_that_left_the_vlan;
}
