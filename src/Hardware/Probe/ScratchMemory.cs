using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Probe;

/// <summary>The memory of a scratch function's BAR 2, which comes with its first use. Any thread.</summary>
/// <param name="name">The function's name.</param>
internal sealed class ScratchMemory(string name)
{
    private readonly Lock _lock = new();
    private HostMemory? _memory;
    private PciBarArea[] _areas = [];
    private bool _isOver;

    /// <summary>Its file, to be mapped.</summary>
    internal IReadOnlyList<PciBarArea> Areas
    {
        get
        {
            using var memory = Borrow();
            return _areas;
        }
    }

    /// <summary>
    /// A reference of the caller's own, so that an end of the function in the middle of an access takes nothing away. Null when the function ends
    /// or the host has no memory left.
    /// </summary>
    /// <param name="onlyIfThere">Null as well when there was no use of it yet.</param>
    internal HostMemory? Borrow(bool onlyIfThere = false)
    {
        lock (_lock)
        {
            if (_memory is null && !onlyIfThere && !_isOver)
            {
                try
                {
                    _memory = HostMemory.Allocate($"{name}-bar2", ScratchEngine.MemorySize, out var file);
                    _areas = [new PciBarArea(0, ScratchEngine.MemorySize, file, 0)];
                }
                catch (VirtbusException)
                {
                    return null;
                }
            }
            return _memory?.Acquire();
        }
    }

    /// <summary>The next use gets other memory.</summary>
    internal void Drop()
    {
        lock (_lock)
        {
            foreach (var area in _areas)
                area.File.Dispose();
            _areas = [];
            _memory?.Dispose();
            _memory = null;
        }
    }

    /// <summary>There is none any more.</summary>
    internal void End()
    {
        lock (_lock)
            _isOver = true;
        Drop();
    }
}
