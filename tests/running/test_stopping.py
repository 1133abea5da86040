"""Signals one by one: noted once, never lost, impatient only when somebody is."""

import signal

import pytest

from running import stopping as module
from running.stopping import Stopped, Stopping


@pytest.fixture
def patient():
    stopping = Stopping()
    stopping.patient = True
    return stopping


def test_outside_of_training_a_signal_stops_at_once():
    with pytest.raises(Stopped):
        Stopping().handle(signal.SIGTERM, None)


def test_one_wish_to_end_that_comes_several_times_is_noted_once(patient):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        patient.handle(number, None)
    assert patient.agree(False) == (True, False)
    assert patient.number == signal.SIGINT


def test_a_second_ctrl_c_does_not_wait(patient, monkeypatch):
    patient.handle(signal.SIGINT, None)
    monkeypatch.setattr(module, "AGAIN", -1.0)
    patient.handle(signal.SIGTERM, None)
    with pytest.raises(Stopped):
        patient.handle(signal.SIGINT, None)


def test_a_signal_that_the_others_told_of_first_is_no_second_one(patient):
    patient.number = signal.SIGTERM  # by agreement
    patient.handle(signal.SIGTERM, None)
    patient.handle(signal.SIGINT, None)
    assert patient.number == signal.SIGTERM


def test_a_signal_that_comes_while_processes_agree_is_not_lost(patient):
    class Wish:
        def __int__(self):  # is asked after the signals were looked at
            patient.handle(signal.SIGTERM, None)
            return 0

    assert patient.agree(Wish()) == (False, False)
    assert patient.agree(False) == (True, False)
