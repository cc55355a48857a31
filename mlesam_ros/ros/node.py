# SPDX-License-Identifier: Apache-2.0
"""`PerceptionNode`: lifecycle, parameters and diagnostics around a `SegmentationRuntime`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain
from typing import Any
from uuid import uuid4

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.timer import Timer

from mlesam_ros.config import NodeParameters, camera_parameter, mutability, unknown_names
from mlesam_ros.errors import ConfigError, MlesamError, format_error
from mlesam_ros.parameter_groups import CONFIGURE
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.diagnostics import DiagnosticBuilder, DiagnosticLogger, PipelineHealth
from mlesam_ros.ros.parameters import coerce, declare_parameters, for_all_cameras, read_parameters
from mlesam_ros.ros.process import exit_fast, spin_node
from mlesam_ros.ros.publishers import DIAGNOSTICS
from mlesam_ros.ros.runtime import SegmentationRuntime

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_POLL_PERIOD_S = 0.1  # s between polls of publishers and levels; a poll takes 1 ms
_REPORT_PERIOD_S = 1.0  # s between messages on /diagnostics without a change of level
_HEARTBEAT_PERIOD_S = 0.25
_HEARTBEAT_TIMEOUT_S = 4.0  # default of nav2's `bond_timeout`
_NO_BOND = (
    "no bond with a lifecycle manager: package bond is not installed. Install it, or set bond_timeout of nav2's "
    "lifecycle manager to 0.0"
)
_STEADY = ClockType.STEADY_TIME  # a simulated clock may stand still


class Heartbeat:
    """One end of a bond of bond_core, which tells nav2's lifecycle manager that an active node responds.

    Topic and id are those of nav2's nodes. The executor of the node publishes the heartbeats. Those of the manager are
    not subscribed to: as for nav2's nodes, a manager that ends does not end them.

    Args:
        node: node that is managed; it owns the publisher.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._status = message_class("bond/msg/Status")
        self._timer: Timer | None = None
        self._instance = ""
        if self._status is not None:
            self._publisher = node.create_publisher(self._status, "bond", 5)

    def start(self) -> None:
        """Publish a heartbeat at once and then periodically. Without package bond, log once that there is none."""
        if self._status is None:
            self._node.get_logger().info(_NO_BOND, once=True)
            return
        self._instance = str(uuid4())
        self._timer = self._node.create_timer(_HEARTBEAT_PERIOD_S, self.beat, clock=Clock(clock_type=_STEADY))
        self.beat()

    def beat(self) -> None:
        """Publish a heartbeat if started. To be called by callbacks that take longer than the manager's timeout."""
        if self._timer is not None:
            self._publish(active=True)

    def stop(self) -> None:
        """Break the bond with a last message."""
        timer, self._timer = self._timer, None
        if timer is not None:
            self._node.destroy_timer(timer)
            self._publish(active=False)

    def _publish(self, active: bool) -> None:
        if not self._node.context.ok():  # after a signal
            return
        assert self._status is not None
        message = self._status(id=self._node.get_name(), instance_id=self._instance, active=active)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.heartbeat_period, message.heartbeat_timeout = _HEARTBEAT_PERIOD_S, _HEARTBEAT_TIMEOUT_S
        self._publisher.publish(message)


class PerceptionNode(LifecycleNode):
    """Lifecycle node that publishes one semantic mask from all available sensors.

    configure loads the weights and warms up; it may fail with a reason and be repeated. activate and deactivate are
    fast. cleanup frees the device. Callbacks run in the executor's thread, the network in a worker thread.

    Args:
        name: name of the node unless remapped.
        **options: options of `rclpy.node.Node`, such as `context` and `parameter_overrides`.

    Raises:
        ConfigError: the value of a parameter is invalid.
    """

    def __init__(self, name: str = "mlesam", **options: Any) -> None:
        self._own: set[str] = set()  # names of parameters that are set for one of several cameras
        super().__init__(name, **options)
        self.parameters = declare_parameters(self)
        given = filter(self.has_parameter, self.parameters.given)
        self._own |= {name for name in given if camera_parameter(name) != name}
        for warning in unknown_names(
            (name for name in self._parameter_overrides if not self.has_parameter(name)), self.parameters.cameras
        ):
            self.get_logger().warning(warning)
        self._runtime: SegmentationRuntime | None = None
        self._heartbeat = Heartbeat(self)
        self._failure = ""
        self._levels: list[bytes] = []
        self._namesakes = 1
        name = self.get_fully_qualified_name()
        self._builders = [DiagnosticBuilder(name, camera=camera) for camera in self.parameters.views]
        self._diagnostic_logger = DiagnosticLogger(self.get_logger())
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", DIAGNOSTICS.qos)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        steady = Clock(clock_type=_STEADY)
        self.create_timer(_POLL_PERIOD_S, self._poll, clock=steady)
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=steady)

    @property
    def state(self) -> str:
        """Label of the lifecycle state, such as `inactive`."""
        return str(self._state_machine.current_state[1])

    def start(self) -> None:
        """Configure and activate if the parameter `autostart` is set."""
        if not self.parameters.autostart:
            self._report(at_once=True)
        elif self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def destroy_node(self) -> None:
        """Release all resources, in any state of the lifecycle, and destroy the node."""
        if hasattr(self, "_heartbeat"):  # rclpy also destroys a node whose construction failed
            self._close()
        super().destroy_node()

    def _close(self) -> None:
        """Stop heartbeats and worker, and free the device."""
        self._heartbeat.stop()
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network, warm up and subscribe to calibration."""
        self.parameters = read_parameters(self)
        self.get_logger().info("configuring: loading the network")
        try:
            self.parameters.check_together()
            self._runtime = SegmentationRuntime(self, self.parameters)
        except Exception as error:
            # Report any exception and allow another configure; rclpy would discard it.
            self._failure = format_error(error)
            self._report(at_once=True)
            return FAILURE
        self._failure = ""
        self.get_logger().info(f"configured: {self._runtime.summary}")
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the sensors, start the worker and the heartbeats for a lifecycle manager."""
        result = super().on_activate(state)
        if self._runtime is None or result != SUCCESS:
            return FAILURE
        try:
            self._runtime.activate()
            self._heartbeat.start()
        except Exception as error:
            self.get_logger().error(f"activate failed: {format_error(error)}")
            self.on_deactivate(state)
            return FAILURE
        self.get_logger().info("active")
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop heartbeats and worker, and keep the weights."""
        self._heartbeat.stop()
        if self._runtime is not None:
            self._runtime.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release all resources."""
        self._close()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release all resources, from any state."""
        self._close()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release all resources after a failed transition, so that configure can be repeated."""
        self._close()
        return SUCCESS

    # Parameters

    def set_parameters(self, parameter_list: list[Parameter[Any]]) -> list[SetParametersResult]:
        """Apply each change separately with `set_parameters_atomically`."""
        return [self.set_parameters_atomically([change]) for change in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter[Any]]) -> SetParametersResult:
        """Cast the values to the declared types, such as 5 to 5.0, and set all or none.

        A change for all cameras leaves values that were set for one of them, so that the order of changes has no
        effect; the reason names these. A rejection lists the accepted values. Both parameter services call this method.
        """
        try:
            changes = for_all_cameras(self, [coerce(self, change) for change in parameter_list], self._own)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        result = super().set_parameters_atomically(changes)
        if result.successful:
            names = {change.name for change in parameter_list}
            kept = sorted(name for name in self._own - names if camera_parameter(name) in names)
            result.reason = f"not changed, as set for one camera: {', '.join(kept)}" if kept else ""
            self._own |= {name for name in names if camera_parameter(name) != name}
        return result

    def _on_set_parameters(self, changes: list[Parameter[Any]]) -> SetParametersResult:
        """Validate all changes; apply all of them or none."""
        own_changes = {change.name: change.value for change in changes if mutability(change.name) is not None}
        if not own_changes:
            return SetParametersResult(successful=True)
        try:
            self._check_mutability(own_changes)
            candidate = read_parameters(self, own_changes)
            candidate.check()
            if self._runtime is not None:
                self._runtime.check(candidate)
            self._swap_checkpoint(candidate.checkpoint)
        except MlesamError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._apply(candidate)
        return SetParametersResult(successful=True)

    def _check_mutability(self, changes: dict[str, Any]) -> None:
        locked = [name for name in changes if mutability(name) == CONFIGURE]
        if locked and self._runtime is not None:
            raise ConfigError(
                f"{', '.join(locked)} is read by configure and the node is {self.state}.",
                f"Clean it up first: ros2 lifecycle set {self.get_fully_qualified_name()} cleanup (deactivate "
                "before, if it is active).",
            )

    def _swap_checkpoint(self, checkpoint: str) -> None:
        """Load a changed checkpoint into a configured pipeline; do nothing before configure.

        No other callback runs meanwhile. Heartbeats continue, since the lifecycle manager would reset the robot.
        """
        if self._runtime is None or checkpoint == self.parameters.checkpoint:
            return
        try:
            with ThreadPoolExecutor(1) as loader:
                swap = loader.submit(self._runtime.swap_checkpoint, checkpoint)
                while not wait((swap,), _HEARTBEAT_PERIOD_S).done:
                    self._heartbeat.beat()
            swap.result()
        except MlesamError as error:
            raise ConfigError(
                f"checkpoint cannot be exchanged, the one in use stays: {error.message}",
                f"{error.remedy} For one of another kind: deactivate, cleanup, set it, configure.".strip(),
            ) from error
        self.get_logger().info(f"checkpoint exchanged: {checkpoint or 'the shipped one'}")

    def _apply(self, parameters: NodeParameters) -> None:
        self.parameters = parameters
        if self._runtime is not None:
            self._runtime.update_parameters(parameters)

    # Reports

    def _poll(self) -> None:
        """Poll the runtime, and publish diagnostics at once if a level changed."""
        if self._runtime is None:
            return
        self._runtime.poll()
        statuses = self._statuses()
        if [entry.level for entry in chain(*statuses)] != self._levels:
            self._publish(statuses)

    def _report(self, at_once: bool = False) -> None:
        own = self.get_name(), self.get_namespace()
        self._namesakes = self.get_node_names_and_namespaces().count(own)
        statuses = self._statuses()
        self._publish(statuses)
        self._diagnostic_logger.update(chain(*statuses), at_once)

    def _statuses(self) -> list[list[DiagnosticStatus]]:
        """Return the statuses of each camera."""
        timeout = self.parameters.sensor_timeout
        if self._runtime is not None:
            return self._runtime.statuses(self.state, self._builders, timeout, self._namesakes)
        health = PipelineHealth(self.state, self._failure, namesakes=self._namesakes)
        return [[builder.pipeline(health, timeout)] for builder in self._builders]

    def _publish(self, statuses: list[list[DiagnosticStatus]]) -> None:
        self._levels = [entry.level for entry in chain(*statuses)]
        message = DiagnosticArray(status=list(chain(*statuses)))
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)
        if self._runtime is not None:
            self._runtime.publish_markers(statuses)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until a signal ends it.

    Args:
        args: the command line with its `--ros-args`; that of this process by default.

    Returns:
        exit code, see `mlesam_ros.ros.process.spin_node`.
    """
    return spin_node(PerceptionNode, args)


if __name__ == "__main__":
    exit_fast(main())
