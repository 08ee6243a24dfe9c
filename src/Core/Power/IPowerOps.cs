namespace Virtbus.Core;

/// <summary>
/// Power callbacks, each optional. Of class, bus and driver the first that has callbacks is asked, as in Linux.
/// The callbacks of system sleep run with the device's transition held.
/// </summary>
/// <remarks>
/// System sleep runs in phases over the whole tree: prepare (parents first), suspend, suspend_late, suspend_noirq (children and
/// consumers first), then resume_noirq, resume_early, resume (parents and suppliers first), complete (children first).
/// An exception from a suspend phase stops the transition and unwinds what was done.
/// </remarks>
public interface IPowerOps
{
    /// <summary>Before anything is suspended; no new children from here on.</summary>
    /// <param name="device">The device.</param>
    ValueTask PrepareAsync(Device device) => default;

    /// <summary>Quiesces the device.</summary>
    /// <param name="device">The device.</param>
    ValueTask SuspendAsync(Device device) => default;

    /// <summary>After every device was quiesced.</summary>
    /// <param name="device">The device.</param>
    ValueTask SuspendLateAsync(Device device) => default;

    /// <summary>With interrupts off.</summary>
    /// <param name="device">The device.</param>
    ValueTask SuspendNoIrqAsync(Device device) => default;

    /// <summary>Undoes <see cref="SuspendNoIrqAsync"/>.</summary>
    /// <param name="device">The device.</param>
    ValueTask ResumeNoIrqAsync(Device device) => default;

    /// <summary>Undoes <see cref="SuspendLateAsync"/>.</summary>
    /// <param name="device">The device.</param>
    ValueTask ResumeEarlyAsync(Device device) => default;

    /// <summary>Undoes <see cref="SuspendAsync"/>.</summary>
    /// <param name="device">The device.</param>
    ValueTask ResumeAsync(Device device) => default;

    /// <summary>Undoes <see cref="PrepareAsync"/>.</summary>
    /// <param name="device">The device.</param>
    ValueTask CompleteAsync(Device device) => default;

    /// <summary>Puts an idle device to sleep while the system runs.</summary>
    /// <param name="device">The device.</param>
    ValueTask RuntimeSuspendAsync(Device device) => default;

    /// <summary>Wakes a device that runtime power management put to sleep.</summary>
    /// <param name="device">The device.</param>
    ValueTask RuntimeResumeAsync(Device device) => default;
}
