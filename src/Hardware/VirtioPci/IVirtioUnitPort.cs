using Virtbus.Platform;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>What the inside of a virtio function finds at the function: interrupts, and where bugs are told.</summary>
internal interface IVirtioUnitPort
{
    /// <summary>How many MSI-X vectors there are.</summary>
    int Vectors { get; }

    /// <summary>Whether software has enabled MSI-X.</summary>
    bool IsMsixEnabled { get; }

    /// <summary>Where bugs of the model are told; null in no slot.</summary>
    FaultSource? Faults { get; }

    /// <summary>Tells, once a user, of what a driver did wrong.</summary>
    void TellDriverFault(int queue, Fault fault);

    /// <summary>Raises a vector.</summary>
    void RaiseVector(int vector);

    /// <summary>Says under a lock what the line is to be.</summary>
    void StageLine(bool asserted);

    /// <summary>Shows what was said last, under no lock.</summary>
    void ShowLine();
}
