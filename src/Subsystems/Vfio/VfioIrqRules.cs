using System.Numerics;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The rules of VFIO_DEVICE_SET_IRQS: what a request must be, whatever the device.</summary>
internal static class VfioIrqRules
{
    /// <summary>Whether a request makes sense for an interrupt index. EINVAL when it does not.</summary>
    internal static bool IsValid(in VfioIrqSet set, in VfioIrqInfo info, out Fault fault)
    {
        const VfioIrqSetFlags Data = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.DataBool | VfioIrqSetFlags.DataEventFd;
        const VfioIrqSetFlags Action = VfioIrqSetFlags.ActionMask | VfioIrqSetFlags.ActionUnmask | VfioIrqSetFlags.ActionTrigger;
        var data = set.Flags & Data;
        var action = set.Flags & Action;
        if ((set.Flags & ~(Data | Action)) != default(VfioIrqSetFlags) || BitOperations.PopCount((uint)data) != 1 || BitOperations.PopCount((uint)action) != 1)
            return Refuse("interrupts are set with exactly one kind of data and one action", out fault);
        if (set.Start >= info.Count || set.Count > info.Count - set.Start)
            return Refuse("the vectors are not all there", out fault);
        if (set.Count == 0 && (data != VfioIrqSetFlags.DataNone || action != VfioIrqSetFlags.ActionTrigger || set.Start != 0))
            return Refuse("no vector is meant only to disable an index", out fault);
        if (data == VfioIrqSetFlags.DataBool && (uint)set.Bools.Length != set.Count)
            return Refuse("there is not one truth value a vector", out fault);
        if (data == VfioIrqSetFlags.DataEventFd && set.EventFds.Length != 0 && (uint)set.EventFds.Length != set.Count)
            return Refuse("there is not one eventfd a vector", out fault);
        if (data == VfioIrqSetFlags.DataEventFd && (info.Flags & VfioIrqFlags.EventFd) == VfioIrqFlags.None)
            return Refuse("the interrupt index signals no eventfds", out fault);
        if (action != VfioIrqSetFlags.ActionTrigger && (info.Flags & VfioIrqFlags.Maskable) == VfioIrqFlags.None)
            return Refuse("the interrupt index cannot be masked", out fault);
        fault = Fault.None;
        return true;
    }

    private static bool Refuse(string why, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, why);
        return false;
    }
}
