using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>
/// One user's address space for any number of devices (Linux: <c>/dev/vfio/vfio</c>, or an IOAS of <c>/dev/iommu</c>): memory is mapped once
/// and every device that is opened here reaches it. Devices of one IOMMU group can be open at the same time only for one user.
/// Safe from any thread.
/// </summary>
/// <remarks>
/// A group is the container's while one of its devices is open here, or while it is attached. It can be neither while another user has a device
/// of it open, nor while a driver of the host does DMA with one; such a driver binds to none of its devices meanwhile.
/// </remarks>
public sealed class VfioContainer : IDisposable
{
    private readonly Lock _lock = new();
    private readonly VfioOwner _user;
    private readonly List<VfioHandle> _handles = [];
    private readonly List<IommuGroup> _groups = [];
    private bool _isDisposed;

    /// <summary>Makes one without devices, with nothing mapped.</summary>
    /// <param name="user">The user's name for messages.</param>
    /// <param name="options">What the address space allows; as for type1v2 when left out.</param>
    public VfioContainer(string user, IoAddressSpaceOptions? options = null)
        : this(new VfioOwner(user), options)
    {
    }

    /// <summary>Makes one for a user who may have others: devices of one IOMMU group may be open in different ones of the same user.</summary>
    /// <param name="user">The user.</param>
    /// <param name="options">As for the other one.</param>
    public VfioContainer(VfioOwner user, IoAddressSpaceOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(user);
        _user = user;
        Space = new IoAddressSpace(options ?? new IoAddressSpaceOptions());
    }

    /// <summary>What the devices reach. A PASID of one is attached to it, or to another space, by <see cref="VfioHandle.TryAttach"/>.</summary>
    public IoAddressSpace Space { get; }

    /// <summary>
    /// Takes a whole IOMMU group, whether or not a device of it is open here (VFIO_GROUP_SET_CONTAINER): from here on no driver that does DMA binds
    /// to its devices, and nobody else opens one.
    /// </summary>
    /// <param name="group">The group.</param>
    /// <param name="fault">EBUSY: attached here already, or a driver of the host or another user, who is named, owns it.</param>
    public bool TryAttachGroup(IommuGroup group, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(group);
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_isDisposed, this);
            if (_groups.Contains(group))
            {
                fault = new Fault(Errno.EBUSY, $"IOMMU group {group.Number} is attached to this container already");
                return false;
            }
            if (!group.TryClaimForUser(_user, _user.Name, out fault))
                return false;
            _groups.Add(group);
            return true;
        }
    }

    /// <summary>Gives a group back (VFIO_GROUP_UNSET_CONTAINER). It stays the container's while one of its devices is open here.</summary>
    /// <param name="group">The group.</param>
    /// <param name="fault">EINVAL: it is not attached.</param>
    public bool TryDetachGroup(IommuGroup group, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(group);
        lock (_lock)
        {
            if (!_groups.Remove(group))
            {
                fault = new Fault(Errno.EINVAL, $"IOMMU group {group.Number} is not attached to this container");
                return false;
            }
        }
        group.ReleaseUser(_user);
        fault = Fault.None;
        return true;
    }

    /// <summary>Opens a device for the container's user; it reaches what is mapped, and what will be.</summary>
    /// <param name="device">The device.</param>
    /// <param name="handle">The open device; the caller disposes it, or the container does.</param>
    /// <param name="fault">As for <see cref="VfioDevice.TryOpen(string, out VfioHandle?, out Fault)"/>; EBUSY also: its group belongs to another.</param>
    public bool TryOpen(VfioDevice device, out VfioHandle? handle, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(device);
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_isDisposed, this);
            if (!device.TryOpen(_user, out handle, out fault))
                return false;
            if (!handle!.TryAttach(Space, null, out fault))
            {
                handle.Dispose();
                handle = null;
                return false;
            }
            _handles.RemoveAll(static h => h.IsClosed);
            _handles.Add(handle);
            return true;
        }
    }

    /// <summary>Closes the devices that are open here, gives the groups back, and unmaps everything.</summary>
    public void Dispose()
    {
        VfioHandle[] handles;
        IommuGroup[] groups;
        lock (_lock)
        {
            _isDisposed = true;
            handles = [.. _handles];
            groups = [.. _groups];
            _handles.Clear();
            _groups.Clear();
        }
        foreach (var handle in handles)
            handle.Dispose();
        foreach (var group in groups)
            group.ReleaseUser(_user);
        Space.Dispose();
    }
}
