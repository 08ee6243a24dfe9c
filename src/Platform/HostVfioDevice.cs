using System.Text;

namespace Virtbus.Platform;

/// <summary>
/// A device that the host's kernel hands to user space (vfio, type1v2): its regions, its interrupts by eventfds, and the memory that it may
/// reach. Safe from any thread.
/// </summary>
public sealed class HostVfioDevice : IDisposable
{
    // _IO(';', 100 + n): no direction, no size.
    internal const nuint GetApiVersion = 0x3B64;
    internal const nuint CheckExtension = 0x3B65;
    internal const nuint SetIommu = 0x3B66;
    internal const nuint GroupGetStatus = 0x3B67;
    internal const nuint GroupSetContainer = 0x3B68;
    internal const nuint GroupGetDevice = 0x3B6A;
    internal const nuint DeviceGetInfo = 0x3B6B;
    internal const nuint DeviceGetRegion = 0x3B6C;
    internal const nuint DeviceGetIrq = 0x3B6D;
    internal const nuint DeviceSetIrqs = 0x3B6E;
    internal const nuint DeviceReset = 0x3B6F;
    internal const nuint MapDma = 0x3B71;
    internal const nuint UnmapDma = 0x3B72;
    internal const int Type1v2 = 3;
    private const uint Viable = 1;
    private const int MaxVectors = 2048;

    private readonly FileDescriptor _container;
    private readonly FileDescriptor _group;

    private HostVfioDevice(FileDescriptor container, FileDescriptor group, FileDescriptor file)
    {
        _container = container;
        _group = group;
        File = file;
    }

    /// <summary>The device's descriptor: regions are read, written and mapped through it. It belongs to this object.</summary>
    public FileDescriptor File { get; }

    /// <summary>Opens a device by its group.</summary>
    /// <param name="folder">Where the host has its vfio files: /dev/vfio.</param>
    /// <param name="group">The number of the device's IOMMU group.</param>
    /// <param name="name">The device's name, 0000:03:00.1.</param>
    /// <exception cref="VirtbusException">ENOENT: no vfio; EACCES; EBUSY: the group is open elsewhere; EPERM: other devices of the group have drivers; ENODEV; EOPNOTSUPP.</exception>
    public static unsafe HostVfioDevice Open(string folder, int group, string name)
    {
        FileDescriptor? container = null, groupFile = null;
        try
        {
            container = OpenFile(Path.Combine(folder, "vfio"));
            var version = Libc.ioctl(container, GetApiVersion, null);
            if (version != 0)
                throw new VirtbusException(Errno.EOPNOTSUPP, $"{folder}/vfio is no VFIO container of version 0. Use a Linux host with VFIO.");
            if (Libc.ioctl(container, CheckExtension, (void*)Type1v2) <= 0)
                throw new VirtbusException(Errno.EOPNOTSUPP, $"VFIO of this host has no type1v2 IOMMU, so {name} can't do DMA safely. Turn the IOMMU on in firmware and kernel.");
            groupFile = OpenFile(Path.Combine(folder, $"{group}"));
            var status = new VfioGroupStatus { ArgSize = (uint)sizeof(VfioGroupStatus) };
            // SAFETY: each argument is a local of the size that its ioctl copies, and outlives the call.
            if (Libc.ioctl(groupFile, GroupGetStatus, &status) < 0)
                throw Refused(name, "the status of its group", Libc.LastError);
            if ((status.Flags & Viable) == 0)
                throw new VirtbusException(Errno.EPERM, $"IOMMU group {group} of {name} has other devices with drivers of the host. Bind them to vfio-pci or unbind them.");
            var number = container.Number;
            if (Libc.ioctl(groupFile, GroupSetContainer, &number) < 0)
                throw Refused(name, "its group for the container", Libc.LastError);
            if (Libc.ioctl(container, SetIommu, (void*)Type1v2) < 0)
                throw Refused(name, "the type1v2 IOMMU", Libc.LastError);
            int file;
            // SAFETY: the name is NUL terminated, and lives longer than the call.
            fixed (byte* text = Encoding.UTF8.GetBytes(name + '\0'))
                file = Libc.ioctl(groupFile, GroupGetDevice, text);
            if (file < 0)
                throw Refused(name, "the device", Libc.LastError);
            return new HostVfioDevice(container, groupFile, new FileDescriptor(file));
        }
        catch
        {
            groupFile?.Dispose();
            container?.Dispose();
            throw;
        }
    }

    /// <summary>Closes the device; the kernel resets it, takes its interrupts away and unmaps its memory.</summary>
    public void Dispose()
    {
        File.Dispose();
        _group.Dispose();
        _container.Dispose();
    }

    /// <summary>What the device is: bit 0 it can be reset, bit 1 it is PCI.</summary>
    /// <exception cref="VirtbusException">The kernel does not say.</exception>
    public unsafe uint GetFlags()
    {
        var info = new VfioInfo { ArgSize = (uint)sizeof(VfioInfo) };
        // SAFETY: a local of the size that it names.
        return Libc.ioctl(File, DeviceGetInfo, &info) < 0 ? throw HostError.Make("what a VFIO device is", Libc.LastError) : info.Flags;
    }

    /// <summary>What a region is.</summary>
    /// <param name="index">0 to 5 BARs, 6 ROM, 7 config space.</param>
    /// <param name="flags">Bit 0 can be read, 1 written, 2 mapped.</param>
    /// <param name="size">Bytes; 0 when it is not there.</param>
    /// <param name="offset">Where in <see cref="File"/>.</param>
    /// <returns>Whether there is such a region.</returns>
    public unsafe bool TryGetRegion(uint index, out uint flags, out ulong size, out ulong offset)
    {
        var region = new VfioRegion { ArgSize = (uint)sizeof(VfioRegion), Index = index };
        // SAFETY: a local of the size that it names.
        var done = Libc.ioctl(File, DeviceGetRegion, &region) >= 0;
        (flags, size, offset) = done ? (region.Flags, region.Size, region.Offset) : default;
        return done;
    }

    /// <summary>How many vectors an interrupt index has.</summary>
    /// <param name="index">0 line, 1 MSI, 2 MSI-X, 3 errors, 4 request.</param>
    public unsafe uint GetVectors(uint index)
    {
        var irq = new VfioIrq { ArgSize = (uint)sizeof(VfioIrq), Index = index };
        // SAFETY: a local of the size that it names.
        return Libc.ioctl(File, DeviceGetIrq, &irq) < 0 ? 0 : irq.Count;
    }

    /// <summary>Sets interrupts up.</summary>
    /// <param name="flags">One kind of data and one action (VFIO_IRQ_SET_*).</param>
    /// <param name="index">Interrupt index.</param>
    /// <param name="start">First vector.</param>
    /// <param name="count">Number of vectors.</param>
    /// <param name="signals">With eventfds as data: one a vector, null for none; else empty.</param>
    /// <returns>None, or the errno.</returns>
    public unsafe Errno SetIrqs(uint flags, uint index, uint start, uint count, ReadOnlySpan<EventFd?> signals)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(signals.Length, MaxVectors, nameof(signals));
        var size = sizeof(VfioIrqSetHead) + (signals.Length * sizeof(int));
        var buffer = stackalloc byte[size];
        *(VfioIrqSetHead*)buffer = new VfioIrqSetHead { ArgSize = (uint)size, Flags = flags, Index = index, Start = start, Count = count };
        var numbers = (int*)(buffer + sizeof(VfioIrqSetHead));
        for (var i = 0; i < signals.Length; i++)
            numbers[i] = signals[i]?.Descriptor.Number ?? -1;
        // SAFETY: the buffer has the size that its head names.
        return Libc.ioctl(File, DeviceSetIrqs, buffer) < 0 ? Libc.LastError : Errno.None;
    }

    /// <summary>Resets the device.</summary>
    /// <returns>None, or the errno.</returns>
    public unsafe Errno Reset() => Libc.ioctl(File, DeviceReset, null) < 0 ? Libc.LastError : Errno.None;

    /// <summary>Lets the device reach memory of this process, which must stay mapped until it is unmapped here.</summary>
    /// <param name="address">Address in this process; whole pages.</param>
    /// <param name="iova">Where the device finds it.</param>
    /// <param name="size">Bytes.</param>
    /// <param name="access">Bit 0 the device may read, bit 1 write.</param>
    /// <returns>None, or the errno; ENOMEM when the limit of locked memory is reached.</returns>
    public unsafe Errno Map(nint address, ulong iova, ulong size, uint access)
    {
        var map = new VfioDmaMap { ArgSize = (uint)sizeof(VfioDmaMap), Flags = access, Address = (ulong)address, Iova = iova, Size = size };
        // SAFETY: a local of the size that it names; the kernel pins the memory behind.
        return Libc.ioctl(_container, MapDma, &map) < 0 ? Libc.LastError : Errno.None;
    }

    /// <summary>Takes memory away again; when the call returns, the device reaches it no more.</summary>
    /// <param name="iova">As mapped.</param>
    /// <param name="size">As mapped.</param>
    /// <returns>None, or the errno.</returns>
    public unsafe Errno Unmap(ulong iova, ulong size)
    {
        var unmap = new VfioDmaUnmap { ArgSize = (uint)sizeof(VfioDmaUnmap), Iova = iova, Size = size };
        // SAFETY: a local of the size that it names.
        return Libc.ioctl(_container, UnmapDma, &unmap) < 0 ? Libc.LastError : Errno.None;
    }

    /// <summary>Reads a region.</summary>
    /// <param name="offset">Byte offset in <see cref="File"/>.</param>
    /// <param name="destination">Where to.</param>
    /// <returns>False when not all could be read.</returns>
    public unsafe bool Read(ulong offset, Span<byte> destination)
    {
        fixed (byte* bytes = destination)
            return File.ReadVectors([new IoVector((nint)bytes, (nuint)destination.Length)], (long)offset, out _) == destination.Length;
    }

    /// <summary>Writes a region.</summary>
    /// <param name="offset">Byte offset in <see cref="File"/>.</param>
    /// <param name="source">Where from.</param>
    /// <returns>False when not all could be written.</returns>
    public unsafe bool Write(ulong offset, ReadOnlySpan<byte> source)
    {
        fixed (byte* bytes = source)
            return File.WriteVectors([new IoVector((nint)bytes, (nuint)source.Length)], (long)offset, out _) == source.Length;
    }

    private static FileDescriptor OpenFile(string path) =>
        FileDescriptor.TryOpen(path, writable: true, out var error) ?? throw new VirtbusException(error, error switch
        {
            Errno.EACCES or Errno.EPERM => $"{path} can't be opened: no permission. Run as root, or give this user the file (udev rule, chown).",
            Errno.EBUSY => $"{path} is open elsewhere. Stop the program that has it; a group has one user.",
            Errno.ENOENT => $"{path} does not exist. Load vfio-pci on the host, and give a container the device.",
            _ => $"{path} can't be opened: {error}. The kernel log may say more.",
        });

    private static VirtbusException Refused(string name, string what, Errno error) =>
        new(error, $"The host refused {what} of {name}: {error}. Check that it is bound to vfio-pci and that nothing else has it open.");
}
