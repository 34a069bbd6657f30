//! One suite for every backend: what the contract in [`crate::store`] says, as checks that take any [`Backend`](crate::Backend).
//!
//! A backend adopts it in one line of an integration test, and each check is a test of its own there:
//!
//! ```
//! # fn in_temp_dir(check: impl FnOnce(&std::path::Path)) { check(std::path::Path::new("unused")) }
//! causeway_storage::conformance_tests!(memory, causeway_storage::memory::BACKEND, in_temp_dir);
//! # fn main() {}
//! ```

mod channels;
mod copies;
mod kit;
mod paging;
mod transactions;

pub use channels::*;
pub use copies::*;
pub use kit::{Context, collect, digest_of, read_all, size_of};
pub use paging::*;
pub use transactions::*;

/// Makes a module of the given name with one `#[test]` for each check, run on a backend. The third argument is a
/// function that calls its argument, a `FnOnce(&Path)`, with a directory that is empty or not there yet.
#[macro_export]
macro_rules! conformance_tests {
    ($module:ident, $backend:expr, $in_dir:path) => {
        $crate::conformance_tests! { @tests $module, $backend, $in_dir,
            // Channels
            a_new_channel_is_empty
            what_is_not_there_is_not_opened
            a_site_id_is_made_once
            a_channel_is_created_with_a_site_id
            a_channel_that_is_not_there_cannot_be_read
            names_that_are_none_are_refused
            every_name_has_a_channel_of_its_own
            many_channels_are_kept_apart
            writers_of_different_channels_do_not_meet
            a_removed_channel_is_gone
            tables_are_counted
            a_directory_has_one_store
            // Transactions
            a_transaction_sees_what_it_has_written
            a_rollback_leaves_nothing
            a_dropped_transaction_leaves_nothing
            commits_are_kept_at_every_durability
            values_are_kept_exactly
            rows_with_similar_names_are_kept_apart
            wide_rows_are_visited_until_the_visit_breaks
            rows_grow_and_shrink
            peers_keep_their_highest_version
            old_peers_are_forgotten
            // Paging
            pages_from_any_cursor_are_complete
            a_moved_cell_is_at_its_new_position_only
            a_reader_sees_commits_but_nothing_before
            a_read_is_one_state_while_commits_pass
            readers_beside_a_writer_see_whole_versions
            a_follower_beside_a_writer_misses_nothing
            // Copies
            a_copy_is_the_same_channel
            what_is_wrong_is_noticed
        }
    };
    (@tests $module:ident, $backend:expr, $in_dir:path, $($check:ident)*) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $check() {
                    let backend: $crate::Backend = $backend;
                    $in_dir(|dir: &::std::path::Path| {
                        $crate::conformance::$check(&$crate::conformance::Context::new(backend, dir))
                    });
                }
            )*
        }
    };
}
