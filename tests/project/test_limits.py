"""Every bound of the program has a test that meets it from outside: over a socket, or as a frame said to an endpoint."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

from mcp_endpoint.settings.schema import Limits

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src" / "mcp_endpoint"
MET = {
    "provider_message_bytes": "sockets/test_link.py::test_messages_of_either_side_may_be_as_large_as_their_limit_says",
    "consumer_message_bytes": "sockets/test_rawframes.py::test_a_frame_gets_what_rfc_6455_demands",
    "device_answer_bytes": "core/test_endpoint_bounds.py::test_an_answer_beyond_a_devices_size_becomes_an_error_and_the_socket_stays",
    "in_flight_per_consumer": "core/test_endpoint_bounds.py::test_a_consumer_may_have_256_requests_in_flight",
    "in_flight_per_endpoint": "core/test_endpoint_bounds.py::test_an_endpoint_may_have_2048_requests_in_flight",
    "queued_bytes_per_link": "sockets/test_link.py::test_a_flood_towards_a_peer_that_does_not_read_ends_its_link_and_memory_stays_bounded",
    "overfull_times": "sockets/test_link.py::test_a_queue_that_is_overfull_ends_its_link_at_once",
    "stalled_seconds": "sockets/test_keepalive.py::test_a_peer_that_takes_nothing_for_stalled_seconds_ends_with_1013",
    "buffered_bytes": "sockets/test_budget.py::test_above_the_budget_the_link_with_most_is_closed_and_the_others_go_on",
    "message_seconds": "sockets/test_budget.py::test_a_message_that_takes_too_long_ends_its_link_though_bytes_keep_coming",
    "fragments": "sockets/test_rawframes.py::test_a_frame_gets_what_rfc_6455_demands",
    "bad_frames": "core/test_endpoint_bounds.py::test_after_twenty_bad_frames_a_consumer_is_sent_away",
    "tools_per_endpoint": "core/test_endpoint_bounds.py::test_an_endpoint_has_at_most_512_tools",
    "list_page_bytes": "core/test_routing.py::test_a_merged_list_above_the_page_size_comes_in_pages",
    "handshake_seconds": "sockets/test_guard.py::test_a_head_that_does_not_arrive_in_time_is_408_and_a_drop_now_and_then_does_not_help",
    "handshake_bytes": "sockets/test_guard.py::test_a_head_over_its_size_is_431_whatever_it_asks_for",
    "unfinished_handshakes": "sockets/test_guard.py::test_of_too_many_unfinished_sockets_the_oldest_gives_way",
    "failed_tokens_per_minute": "sockets/test_handshake.py::"
    "test_the_eleventh_bad_token_of_an_address_within_a_minute_hears_429_and_a_good_one_never_does",
    "failed_token_addresses": "sockets/test_handshake.py::test_the_table_of_addresses_is_bounded",
    "late_answers": "core/test_endpoint.py::test_late_answers_are_told_from_unknown_ones_for_the_last_thousand",
    "initialize_seconds": "core/test_endpoint_greeting.py::test_an_initialize_waits_eight_seconds_however_many_tools_are_silent",
    "list_seconds": "core/test_routing.py::test_a_list_a_provider_does_not_answer_is_waited_for_eight_seconds",
    "merged_list_seconds": "core/test_routing.py::test_a_merged_list_waits_five_seconds_and_names_who_is_missing",
    "own_initialize_seconds": "core/test_endpoint_greeting.py::test_a_provider_that_does_not_take_a_greeting_is_bare",
    "progress_seconds": "core/test_endings.py::test_progress_extends_a_call_up_to_three_hundred_seconds",
    "http_requests": "consumers/mcp_http/test_route.py::test_of_too_many_requests_at_a_time_the_last_hears_503",
    "http_bodies": "consumers/http_api/test_api.py::test_no_body_is_read_without_a_token_and_only_so_many_at_a_time",
    "checked_bytes": "consumers/http_api/test_arguments.py::test_what_is_too_large_or_finds_no_room_is_left_to_the_tool",
    "body_seconds": "consumers/mcp_http/test_route.py::test_a_body_that_does_not_come_is_408",
    "http_sessions": "consumers/mcp_http/test_sessions.py::"
    "test_at_the_most_sessions_the_one_unused_for_longest_gives_way_and_one_in_use_does_not",
    "http_idle_seconds": "consumers/mcp_http/test_sessions.py::test_a_session_nobody_uses_ends_and_one_that_is_read_does_not",
    "http_replay_bytes": "consumers/mcp_http/test_session.py::"
    "test_events_kept_for_a_resumption_are_bounded_and_the_least_used_session_forgets_first",
    "http_answer_bytes": "consumers/test_local.py::test_an_answer_larger_than_the_limit_fails_and_says_so",
    "http_ask_seconds": "core/test_endpoint_managed.py::test_an_in_process_consumer_may_think_longer_than_a_call_may_take",
    "ask_seconds": "core/test_endpoint.py::test_a_consumer_that_lets_a_question_expire_counts_as_not_able",
    "http_streams": "consumers/mcp_http/test_subscriptions.py::test_there_are_only_so_many_subscriptions",
    "parked_rounds": "consumers/mcp_http/test_stateless.py::test_of_parked_rounds_there_are_only_so_many",
    "console_streams": "console/test_live.py::test_there_are_only_so_many_streams_and_one_that_left_makes_room",
    "metric_endpoints": "core/test_figures.py::test_names_that_peers_choose_cannot_make_the_figures_grow",
    "metric_tools": "core/test_figures.py::test_names_that_peers_choose_cannot_make_the_figures_grow",
    "grace_seconds": "core/test_endings.py::test_lists_are_answered_from_the_catalog_that_stayed",
    "grace_call_seconds": "core/test_endings.py::test_a_call_waits_four_seconds_from_when_it_was_made",
    "hold_quiet_seconds": "core/test_delivery.py::test_the_real_xiaozhi_servers_list_is_held_until_a_tool_is_there",
    "list_changed_seconds": "core/test_routing.py::test_consumers_hear_of_changes_at_most_once_a_second",
    "integer_id_chars": "core/test_endpoint.py::test_what_may_not_be_an_id_is_refused_with_id_null",
    "string_id_bytes": "core/test_endpoint.py::test_what_may_not_be_an_id_is_refused_with_id_null",
    "gateway_connections": "gateway/test_proxy.py::test_more_requests_than_connections_wait_for_one",
    "gateway_retry_bytes": "gateway/test_proxy.py::test_a_request_that_is_too_large_to_be_kept_is_sent_once",
    "record_queue_bytes": "recorder/test_room.py::test_a_writer_that_stands_still_costs_the_newest_records_and_none_is_unaccounted_for",
    "record_call_bytes": "recorder/test_taps.py::test_what_is_long_is_cut_and_counted",
    "record_body_bytes": "recorder/test_taps.py::test_an_exchange_is_handed_on_as_it_is",
    "record_batch_seconds": "recorder/test_room.py::test_what_still_waits_at_the_end_is_written_also_if_the_writer_had_only_just_begun",
    "remembered_endpoints": "core/test_broker.py::test_last_closes_are_bounded_and_the_oldest_goes_first",
}
"""Field → the test that meets it."""
UNUSED: set[str] = set()
"""Fields whose consumers do not exist yet."""


def test_every_limit_is_met_by_a_test_or_nothing_uses_it_yet() -> None:
    assert {field.name for field in msgspec.structs.fields(Limits)} == set(MET) | UNUSED
    code = "".join(path.read_text() for path in SOURCE.rglob("*.py") if "settings" not in path.parts)
    assert not [name for name in UNUSED if f"limits.{name}" in code]
    assert not [name for name in MET if name not in code]


@pytest.mark.parametrize("test", sorted(set(MET.values())))
def test_the_test_that_meets_a_limit_exists(test: str) -> None:
    file, name = test.split("::")
    tree = ast.parse((TESTS / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
