using Virtbus.Buses.Pci;
using Virtbus.Platform;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>How the interrupts of a function are shared out among its queues; tried in this order, as Linux does.</summary>
internal enum VirtioPciSharing
{
    /// <summary>MSI-X: the first vector for the configuration, one for each queue that is waited for.</summary>
    PerQueue,
    /// <summary>MSI-X: the first vector for the configuration, the second for all queues.</summary>
    Shared,
    /// <summary>The line; the ISR says who it was.</summary>
    Line,
}

/// <summary>The vectors of one way of sharing.</summary>
internal sealed class VirtioPciInterrupts : IDisposable
{
    private readonly PciDevice _device;
    private readonly IReadOnlyList<PciVector> _vectors;

    private VirtioPciInterrupts(PciDevice device, VirtioPciSharing sharing, IReadOnlyList<PciVector> vectors)
    {
        _device = device;
        Sharing = sharing;
        _vectors = vectors;
    }

    internal VirtioPciSharing Sharing { get; }

    /// <summary>Allocates them.</summary>
    /// <param name="device">The function.</param>
    /// <param name="sharing">The way.</param>
    /// <param name="waited">How many queues are waited for.</param>
    /// <param name="interrupts">The vectors, without handlers.</param>
    /// <param name="error">Why not: the function has not as many, or no table for them.</param>
    internal static bool TryAllocate(PciDevice device, VirtioPciSharing sharing, int waited, out VirtioPciInterrupts? interrupts, out VirtbusException? error)
    {
        var (count, kind) = sharing switch
        {
            VirtioPciSharing.PerQueue => (1 + waited, PciInterruptKinds.MsiX),
            VirtioPciSharing.Shared => (2, PciInterruptKinds.MsiX),
            _ => (1, PciInterruptKinds.INTx),
        };
        try
        {
            interrupts = new VirtioPciInterrupts(device, sharing, device.AllocateVectors(count, count, kind));
            error = null;
            return true;
        }
        catch (VirtbusException e) when (e.Errno is Errno.ENOSPC or Errno.EIO)
        {
            interrupts = null;
            error = e;
            return false;
        }
    }

    /// <summary>Sets the handler of the configuration's vector, or of the line.</summary>
    internal void SetFirst(Action handler) => _vectors[0].SetHandler(handler);

    /// <summary>Sets the handler of a queue's vector.</summary>
    /// <param name="vector">Its number, above 0.</param>
    /// <param name="handler">The handler.</param>
    internal void Set(int vector, Action handler) => _vectors[vector].SetHandler(handler);

    /// <summary>Keeps the line from asking again, when nobody answers why it is asserted.</summary>
    internal void MaskLine() => _vectors[0].Mask();

    /// <summary>Takes the handlers off: none runs when it returns, and none comes.</summary>
    internal void Silence()
    {
        foreach (var vector in _vectors)
            vector.SetHandler(null);
    }

    public void Dispose() => _device.FreeVectors();
}
