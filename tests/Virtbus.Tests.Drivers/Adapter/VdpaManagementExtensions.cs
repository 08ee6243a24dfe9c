using Virtbus.Buses.Vdpa;

namespace Virtbus.Tests.Drivers.Adapter;

internal static class VdpaManagementExtensions
{
    /// <summary>Makes a disk on a medium that was put into the adapter.</summary>
    public static ValueTask<VdpaDevice> AddDiskAsync(this VdpaManagement management, string name, string medium, string serial, int queues = 1, bool packed = false) =>
        management.AddAsync(management.Profile(name, [new("medium", medium), new("serial", serial), new("queues", $"{queues}"), new("packed", packed ? "true" : "false")]));
}
