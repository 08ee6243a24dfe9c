using Virtbus.Platform;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Virtio;

/// <summary>
/// The order in which a driver brings a device up (VIRTIO 1.2, 2.1 and 3.1.1) as one table, for devices that enforce it and for drivers
/// that keep it. A bit is taken back by a reset only. A transport whose peer sends no status sets the bits itself, in this order.
/// </summary>
public static class VirtioStatusRules
{
    private const byte Known = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | DEVICE_NEEDS_RESET | FAILED;

    // A bit that comes; what has to stand beside it in the value that is written; what has to have been there before that.
    // The driver reads FEATURES_OK back before it goes on (3.1.1, step 6), so that bit and DRIVER_OK never come in one write.
    private static readonly (byte Bit, byte Beside, byte Before, string Message)[] Bits =
    [
        (DRIVER, ACKNOWLEDGE, 0, "DRIVER was set without ACKNOWLEDGE"),
        (FEATURES_OK, ACKNOWLEDGE | DRIVER, 0, "FEATURES_OK was set without ACKNOWLEDGE and DRIVER"),
        (DRIVER_OK, ACKNOWLEDGE | DRIVER | FEATURES_OK, FEATURES_OK, "DRIVER_OK was set before the features were settled"),
    ];

    // A step; the bits that it needs; the bits that forbid it; what is answered. Indexed by the step.
    private static readonly (VirtioStep Step, byte Needs, byte Forbids, Fault Fault)[] Steps =
    [
        (VirtioStep.TakeFeatures, 0, FEATURES_OK, new Fault(Errno.EBUSY, "features are settled until a reset")),
        (VirtioStep.EnableQueue, FEATURES_OK, 0, new Fault(Errno.EINVAL, "a queue was enabled before the features were settled")),
        (VirtioStep.RunQueues, DRIVER_OK, 0, new Fault(Errno.EAGAIN, "the driver is not ready")),
    ];

    /// <summary>
    /// Asks whether a driver may write a status other than 0, which resets the device and may always be written. SUSPEND is no bit of this order: it comes by
    /// <see cref="VirtioDevice.BeginSuspend"/>, and goes with DRIVER_OK, written with it or without.
    /// </summary>
    /// <param name="status">The status as it is.</param>
    /// <param name="wanted">All bits that are written; DEVICE_NEEDS_RESET, the device's own bit, may be among them or not (2.1.1).</param>
    /// <param name="fault">EINVAL: a bit is taken back, comes too early, or is none.</param>
    /// <returns>Whether it may.</returns>
    public static bool TryAdvance(byte status, byte wanted, out Fault fault)
    {
        if ((wanted & ~(Known | (status & SUSPEND))) != 0)
            return Refuse("a status bit was set that there is not", out fault);
        if ((wanted & DRIVER_OK) != 0)
            status &= unchecked((byte)~SUSPEND);
        if ((status & ~DEVICE_NEEDS_RESET & ~wanted) != 0)
            return Refuse("a status bit was taken back without a reset", out fault);
        foreach (var (bit, beside, before, message) in Bits)
        {
            if ((wanted & ~status & bit) != 0 && ((wanted & beside) != beside || (status & before) != before))
                return Refuse(message, out fault);
        }

        fault = Fault.None;
        return true;
    }

    /// <summary>Asks whether the status allows a step.</summary>
    /// <param name="status">The status.</param>
    /// <param name="step">The step.</param>
    /// <param name="fault">EBUSY, EINVAL, EAGAIN: what stands against it.</param>
    /// <returns>Whether it does.</returns>
    public static bool Allows(byte status, VirtioStep step, out Fault fault)
    {
        var (_, needs, forbids, refusal) = Steps[(int)step];
        var allowed = (status & needs) == needs && (status & forbids) == 0;
        fault = allowed ? Fault.None : refusal;
        return allowed;
    }

    private static bool Refuse(string message, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, message);
        return false;
    }
}
